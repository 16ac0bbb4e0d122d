"""What everything else stands on: settings, errors, the clock, signs of life. Imports no other part."""

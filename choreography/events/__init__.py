"""What can happen and who reacts: event classes, reactions, timers, external systems, and the contract gate."""

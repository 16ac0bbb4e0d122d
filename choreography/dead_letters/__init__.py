"""What a person does with parked messages: redrive, edit, discard, dry run."""

"""What services share that is not machinery: money, and the files in which sandboxes keep their books."""

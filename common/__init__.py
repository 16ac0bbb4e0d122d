"""What services share that is not machinery: money, and the files in which sandboxes record what they did."""

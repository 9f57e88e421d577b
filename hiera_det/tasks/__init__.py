"""What is special to each training that needs no detector."""

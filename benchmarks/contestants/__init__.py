"""What runs the rounds that are compared: the library, plain code, peers."""

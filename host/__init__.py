"""Host: devices, sessions and the command line."""

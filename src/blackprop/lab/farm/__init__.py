"""Several alike devices served as one."""

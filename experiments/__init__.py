"""The application: training, sampling and what they need beyond the library."""

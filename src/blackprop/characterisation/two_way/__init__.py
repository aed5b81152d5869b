"""Questions to devices that declare that they run both ways, or are read inside."""

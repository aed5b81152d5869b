"""Questions to devices whose cells are moved by pulses. They move the cells."""

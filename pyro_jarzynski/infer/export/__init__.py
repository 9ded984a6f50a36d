"""What of a run goes to ArviZ."""

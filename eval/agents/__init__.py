"""What collaboration among agents is worth: each alone, together, with fewer of them, and revised."""

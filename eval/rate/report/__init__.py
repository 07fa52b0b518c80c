"""A finished sweep as one HTML page that needs nothing but itself."""

"""`kinema serve`: a recogniser as a service, and the page that shows it a camera."""

"""HTTP routes: each translates a request, awaits one call and encodes the answer."""

"""Headers of every response, for browsers: what they get from here is data, never a page that may load or do things."""

#: A resource that is a page sets a Content-Security-Policy of its own, and one with forms a Referrer-Policy.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

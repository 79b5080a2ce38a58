"""Headers of every response, for browsers: what they get from here is data, never a page that may load or do things."""

CONTENT_SECURITY_POLICY = "Content-Security-Policy"

#: A resource that is a page sets a Content-Security-Policy of its own.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    CONTENT_SECURITY_POLICY: "default-src 'none'; frame-ancestors 'none'",
}

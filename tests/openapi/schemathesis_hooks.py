"""What schemathesis has to be told about media types."""

import schemathesis

# Lines of JSON are a text to it: how they are encoded is what the text is.
schemathesis.serializer.alias("application/x-ndjson", "text/plain")

"""Real images where the OpenAPI document asks for them: random base64 is none, and schema says no more than base64.

Loaded by Schemathesis in an environment of its own (SCHEMATHESIS_HOOKS).
"""

import schemathesis
from hypothesis import strategies as st

# A grey pixel as PNG, and a red one as a GIF in a data URL.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
GIF = "data:image/gif;base64,R0lGODdhAQABAPAAAP8AAAAAACwAAAAAAQABAAACAkQBADs="

schemathesis.openapi.format("base64-image", st.sampled_from([PNG, GIF]))

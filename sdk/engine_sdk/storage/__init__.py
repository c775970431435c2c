"""What an author of a storage driver uses: stores over fsspec and obstore, error translation, URLs.

    from engine_sdk.storage import FsspecStore, Location, Translator

fsspec and obstore are imported when a store is made, never by importing this package: listing drivers costs nothing.
"""

from engine_sdk.storage.errors import Translator, mask
from engine_sdk.storage.fsspec_store import FsspecStore, filesystem, without_listings_cache
from engine_sdk.storage.keys import level, matching
from engine_sdk.storage.location import Location
from engine_sdk.storage.obstore_store import ObstoreStore
from engine_sdk.storage.options import Endpoint, RemoteOptions
from engine_sdk.storage.signed_removals import SignedRemovals

__all__ = [
    "Endpoint",
    "FsspecStore",
    "Location",
    "ObstoreStore",
    "RemoteOptions",
    "SignedRemovals",
    "Translator",
    "filesystem",
    "level",
    "mask",
    "matching",
    "without_listings_cache",
]

"""Named real data: get, make, cache, checksum."""

"""What data are called: after what is in them, where their source is only the form that they have."""

import pytest

from untrain.data.sections import Data


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (Data("fashion"), "fashion"),
        (Data("fashion", path="idx/files"), "fashion"),
        (Data("hub:owner/flowers"), "hub:owner/flowers"),
        (Data("captions", path="/data/old-posters/"), "old-posters"),
        (Data("folder", path="photos"), "photos"),
        (Data("arrays", path="sets/digits.npz"), "digits"),
        (Data("parquet", path="my.v2"), "my.v2"),
        (Data("captions"), "captions"),
    ],
)
def test_title(data, title):
    assert data.title == title

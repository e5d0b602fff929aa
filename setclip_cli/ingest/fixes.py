"""What helps against each kind of reject: the advice of the error that a source with too many of them gives."""

from __future__ import annotations

import re
from importlib.util import find_spec

from setclip_cli.errors import argument
from setclip_cli.files.recognize import HTML_PAGE, LFS_POINTER
from setclip_cli.ingest.sources.fasta_content import NO_GAPS, TRANSLATE

_AGAIN = "download or copy these files again"
_BANDS = f"{argument('bands')} R,G,B with the numbers of three bands, or of one, or {argument('bands')} all"
_GEO = "" if find_spec("rasterio") else "; this needs pip install 'setclip[geo]'"

# The first pattern that begins the most frequent kind of reject gives the advice.
_FIXES: tuple[tuple[str, str], ...] = (
    (r"(.*, )?a Git LFS pointer", LFS_POINTER.fix),
    (r"(.*, )?an HTML page", HTML_PAGE.fix),
    (r"holds \d+ bands? of ", f"{_BANDS}; add {argument('tile')} PIXELS for large scenes; unpack archives first{_GEO}"),
    (r"complex samples", "write the amplitude or the real part as a band of its own, with gdal_translate or numpy"),
    (r"too few bands", f"{argument('bands')} with numbers that these scenes have"),
    (
        r"over the cap of [\d,]+ (pixels|bytes of samples)",
        f"cut large scenes with {argument('tile')} PIXELS{_GEO}; make others smaller",
    ),
    (r"smaller than a tile", f"{argument('tile')} with a smaller number"),
    (r"bands of several sample types", f"{argument('bands')} with the numbers of bands of one type"),
    (
        r"more than half of the tile is nodata|empty tile",
        "these scenes hold little: check that they are the right ones",
    ),
    (r"only a thumbnail can be read", "convert camera raw files to JPEG or TIFF with their own program"),
    (r"a format that is not read", "convert these files to JPEG or PNG"),
    (r"empty file|damaged(?! video)|JPEG cut short|PNG cut short|PNG damaged|WebP cut short|no readable scene", _AGAIN),
    (r"nucleotides, not amino acids", TRANSLATE),
    (r"an aligned sequence with gaps", NO_GAPS),
    (r"several chains in one sequence", "write each chain as a record of its own"),
    (r"PIR record without", "end each sequence with '*', or write plain FASTA headers without P1;"),
    (r"text before the first '>'", f"give a FASTA file, or the right format with {argument('layout', '--format')}"),
    (r"name or id that is not UTF-8", "rename these files so that their names are UTF-8, for example with convmv"),
    (r"split's name differs", f"spell each split in one way, or give {argument('split')}"),
    (r"id cannot be used", "write each id as text or a number, or leave the ids out"),
    (r"no image bytes in the row", "write the bytes of the images into the table, or give the folder of the images"),
    (r"empty id", "write an id after each '>'"),
    (r"holds what is no amino-acid code", "see in the list what it is: a '*' inside is a stop codon of a pseudogene"),
    (
        r"its vector is not finite",
        "look for NaN or infinity where they are computed; float16 holds 65,504 at most",
    ),
    (r"its vector is zero", "check that this is the column or data set that holds the vectors"),
    (r"its vector has a number that is too large", "divide the vectors by a number, or by their lengths"),
    (r"other width than the first", "write vectors of one width; name the right ones if the source has several kinds"),
    (r"array of several vectors", f"{argument('average')} takes the mean of the vectors of an id"),
    (r"no number|empty field in place", f"name the columns of numbers with {argument('vector_column')} 'PREFIX*'"),
    (r"list that was shortened", "write the lists as JSON: json.dumps(vector.tolist())"),
    (r"damaged video, or none", "play one of these files to see; if it plays, convert it with: ffmpeg -i FILE out.mp4"),
    (r"no pictures|no frame", "see in the list which files these are, and play one of them"),
    (r"no readable image|an? .* (file|archive|database|pickle)", "see what these files are in the list"),
)


def fix_of(kind: str) -> str | None:
    """The advice for a kind of reject (see ``Reject.kind``); None for a kind whose words say it all."""
    return next((fix for pattern, fix in _FIXES if re.match(pattern, kind)), None)

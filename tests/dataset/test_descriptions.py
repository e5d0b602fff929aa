"""What a reader is told of a protein, from descriptions as the world writes them."""

from __future__ import annotations

import pytest

from setclip_cli.dataset.descriptions import Description, read_description, uniprot_page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Cholinesterase OS=Homo sapiens EC=3.1.1.7", ("Cholinesterase", "Homo sapiens", "EC 3.1.1.7 (a hydrolase)")),
        ("Kinase OS=Bos taurus OX=9913 GN=PIM3 PE=2 SV=1", ("Kinase", "Bos taurus", "")),
        ("Two in one EC=2.7.1.1,3.1.3.2", ("Two in one", "", "EC 2.7.1.1, 3.1.3.2 (a transferase and a hydrolase)")),
        ("2 OS=E. coli (K12) EC=1.1.1.1,1.1.1.-", ("2", "E. coli (K12)", "EC 1.1.1.1, 1.1.1.- (an oxidoreductase)")),
        ("Preliminary OS=Mus musculus EC=4.2.1.n5", ("Preliminary", "Mus musculus", "EC 4.2.1.n5 (a lyase)")),
        ("Unheard of EC=9.1.1.1", ("Unheard of", "", "EC 9.1.1.1")),
        ("no fields at all", ("no fields at all", "", "")),
        ("a gene GN=abc of a lab", ("a gene GN=abc of a lab", "", "")),
        ("", ("", "", "")),
    ],
)  # fmt: skip
def test_a_description_is_read_into_name_organism_and_enzyme(text: str, said: tuple[str, str, str]) -> None:
    assert read_description(text) == Description(*said)
    assert read_description(text).in_words() == " · ".join(part for part in said if part)


@pytest.mark.parametrize("accession", ["P69905", "Q9Y6K9", "A0A023GPI8", "O00241"])
def test_an_accession_of_uniprot_has_a_page(accession: str) -> None:
    assert uniprot_page(accession, "Kinase OS=Bos taurus") == f"https://www.uniprot.org/uniprotkb/{accession}"


@pytest.mark.parametrize(
    ("identifier", "description"),
    [
        ("P69905", "a protein of a lab"),  # its id may be the lab's own
        ("YAL067W", "Kinase OS=Bos taurus"),
        ("p69905", "Kinase OS=Bos taurus"),
        ("P69905\n", "Kinase OS=Bos taurus"),
        ("P69905/../x", "Kinase OS=Bos taurus"),
        ("", "Kinase OS=Bos taurus"),
    ],
)
def test_nothing_else_has_one(identifier: str, description: str) -> None:
    assert uniprot_page(identifier, description) == ""

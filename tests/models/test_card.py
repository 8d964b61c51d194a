from pathlib import Path

from untrain.models.card import base_front, base_name, card_text, how_section, licence_of, weights_section


def test_what_a_folder_says_of_its_licence(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == {} and licence_of(tmp_path / "model.safetensors") == {}
    (tmp_path / "LICENSE.md").write_text("Be good.")
    found = licence_of(tmp_path)
    assert found == {"license": "other", "license_name": "of-the-original", "license_link": "LICENSE.md"}
    (tmp_path / "README.md").write_text("no front\n---\nlicense: mit\n---\n")
    assert licence_of(tmp_path) == found
    (tmp_path / "README.md").write_text("---\nlicense: openrail++\ntags: [a]\nlicense_link: [1]\n---\n# A model\n")
    assert licence_of(str(tmp_path)) == {"license": "openrail++"}
    for broken in ("---\nlicense: [\n---\n", "---\n- license\n---\n"):
        (tmp_path / "README.md").write_text(broken)
        assert licence_of(tmp_path) == found


def test_a_card_elsewhere_says_nothing(tmp_path: Path) -> None:
    """A link of a stranger's folder may lead to any file of this machine."""
    (tmp_path / "notes.md").write_text("---\nlicense: secret\n---\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").symlink_to(tmp_path / "notes.md")
    assert licence_of(tmp_path / "model") == {}


def test_parts_of_a_card() -> None:
    text = card_text({"library_name": "x"}, ["# A", "B"])
    assert text == "---\nlibrary_name: x\n---\n\n# A\n\nB\n"
    assert base_name("/home/someone/models/vit") == "vit" and base_name("someone/vit") == "someone/vit"
    assert base_front("someone/vit", {"license": "mit"})["base_model"] == "someone/vit"
    assert "base_model" not in base_front("/home/someone/models/vit", {})
    how = how_section("sfron", "on all", {"optimizer": {"lr": 0.1}}, 3, {"steps": 4, "seconds": 2.0})
    assert "Method `sfron`, on all. It took 4 optimiser steps, 2 s. Seed 3." in how and "| optimizer.lr | 0.1 |" in how
    weights = weights_section("someone/vit", "abc", "def", {"license": "mit"}, "its weights")
    assert "`abc`" in weights and "`def`" in weights and "(mit) holds" in weights

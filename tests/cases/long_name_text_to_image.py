"""A name of 300 letters where runs/ is there already: refused in words, and not by the file system as unforeseen."""

from _common import cli, done, tmp

from helpers.text_recipes import save_text_recipe

folder = tmp()
save_text_recipe(folder)
(folder / "runs").mkdir()
code, _, error = cli("run", folder / "tiny.yaml", "--name", "x" * 300, cwd=folder)
done(code == 3, (code, error[-420:].replace("x" * 300, "x…x")))

"""Seeds of a table whose header nearly has the known names (unified-concept-editing#35: lines that end in backslashes).

They are used, or it is said that they are not; never is a seed dropped without a word.
"""

import warnings

from _common import done, tmp

import untrain
from untrain.tasks.text_to_image.prompts import read_prompts

TABLES = {
    "backslash": "case_number,prompt,class,evaluation_seed\\\n861,a cat,cat,4188\\\n",
    "names of P4D": "prompt,seed,guidance\na cat,4188,7.5\n",
    "case": "prompt,Evaluation_Seed\na cat,4188\n",
}
folder, bad = tmp(), []
for name, text in TABLES.items():
    (folder / "p.csv").write_text(text)
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            prompt = read_prompts(folder / "p.csv")[0]
    except untrain.UntrainError:
        continue
    if prompt.seed is None and not heard:
        bad.append((name, "seed of the table 4188, read", prompt.seed))
done(bad, bad)

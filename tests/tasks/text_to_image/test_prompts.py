"""Prompts from tables in every form that spreadsheets write, and images that depend on their own seed alone."""

import errno
import os
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import untrain.io
from helpers.small_pipelines import TEXTS
from untrain.engine import Engine, seed_of
from untrain.errors import DataError, EmptySet, FolderError, ModelError, SettingError
from untrain.tasks.text_to_image.prompts import Prompt, PromptSampler, read_prompts, sample_prompts, shots, too_long

ENGINE = Engine(torch.device("cpu"))
I2P = "prompt,case_number,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height"


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode(encoding))
    return path


class TestReading:
    def test_every_column_of_i2p(self, tmp_path):
        path = written(tmp_path, f'{I2P}\n"a cat, a dog",7,123,7.5,512,768\n')
        assert read_prompts(path) == (Prompt("a cat, a dog", 7, 123, 7.5, 512, 768, 2),)

    def test_only_prompt_is_required_and_numbers_the_rest(self, tmp_path):
        path = written(tmp_path, "prompt\na cat\n\na dog\n")
        assert read_prompts(path) == (Prompt("a cat", 0, line=2), Prompt("a dog", 1, line=4))

    @pytest.mark.parametrize(
        "text",
        [
            "\ufeffprompt,case_number\na cat,3\n",
            "prompt,case_number,,\na cat,3,,\n",
            "prompt,case_number\na cat,3,,,\n",
            ",prompt,case_number\n0,a cat,3\n",
            "prompt,case_number\r\na cat,3\r\n\r\n",
            "case_number,categories, prompt \n3.0,hate, a cat ",
            '"prompt","case_number"\n"a cat","3"',
            "prompt,case_number,evaluation_seed\na cat,3\n",
        ],
    )
    def test_what_spreadsheets_write_does_no_harm(self, tmp_path, text):
        (prompt,) = read_prompts(written(tmp_path, text))
        assert replace(prompt, line=0) == Prompt("a cat", 3)

    def test_a_prompt_of_several_lines_and_the_line_numbers_after_it(self, tmp_path):
        first, second = read_prompts(written(tmp_path, 'prompt\n"a\ncat"\na dog\n'))
        assert (first.text, first.line, second.line) == ("a\ncat", 2, 4)

    def test_i2ps_own_names_of_columns(self, tmp_path):
        (prompt,) = read_prompts(written(tmp_path, "prompt,sd_seed,sd_guidance_scale\na cat,4,7\n"))
        assert (prompt.seed, prompt.guidance_scale) == (4, 7.0)
        both = "prompt,sd_seed,evaluation_seed\na cat,4,5\n"
        with pytest.warns(UserWarning, match="'sd_seed' is not read: 'evaluation_seed' is"):
            assert read_prompts(written(tmp_path, both))[0].seed == 5

    @pytest.mark.parametrize(
        ("header", "row"),
        [
            ("prompt,evaluation_seed\\", "a cat,4188\\"),
            ("prompt,evaluation_seed\\", "a cat,4188"),
            ("evaluation_seed\\,prompt", "4188,a cat"),
            ("prompt,seed", "a cat,4188"),
            ("prompt,Evaluation_Seed", "a cat,4188"),
            ("Prompt,EVALUATION SEED", "a cat,4188"),
            ("prompt, Sd-Seed ", "a cat,4188"),
            ("\ufeff\ufeffPROMPT,evaluation_seed", "a cat,4188"),
        ],
    )
    def test_names_that_come_close_are_used_and_that_is_said(self, tmp_path, header, row):
        with pytest.warns(UserWarning, match=r"is read as|end in backslashes") as said:
            (prompt,) = read_prompts(written(tmp_path, f"{header}\n{row}\n"))
        assert (prompt.text, prompt.seed) == ("a cat", 4188) and "prompts.csv" in str(said[0].message)

    def test_names_of_other_programs(self, tmp_path):
        text = "prompt,seed,guidance,width,height\na cat,4,7.5,512,256\n"
        with pytest.warns(UserWarning, match="is read as") as said:
            (prompt,) = read_prompts(written(tmp_path, text))
        assert prompt == Prompt("a cat", 0, 4, 7.5, 512, 256, 2)
        assert [str(warning.message).split("'")[1] for warning in said] == ["seed", "guidance", "width", "height"]

    @pytest.mark.parametrize("name", ["evaluation_sed", "my_seed", "negative_prompt", "case_numbr", "sd_guidanc_scale"])
    def test_a_column_that_looks_like_one_is_not_left_out_in_silence(self, tmp_path, name):
        with pytest.warns(UserWarning, match=f"'{name}' is not read"):
            (prompt,) = read_prompts(written(tmp_path, f"prompt,{name}\na cat,4\n"))
        assert prompt.seed is prompt.guidance_scale is None

    def test_columns_of_i2p_that_are_not_meant_are_left_out(self, tmp_path):
        others = "categories,hard,inappropriate_percentage,nudity_percentage,prompt_toxicity,lexica_url,sd_model"
        (prompt,) = read_prompts(written(tmp_path, f"prompt,{others}\na cat,{'0,' * 7}\n"))
        assert prompt == Prompt("a cat", 0, line=2)

    def test_two_columns_that_come_close_to_one_name(self, tmp_path):
        with pytest.raises(DataError, match="2 columns are called evaluation_seed"):
            read_prompts(written(tmp_path, "prompt,Evaluation_Seed,EVALUATION_SEED\na,1,2\n"))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "line 1: there is no column called prompt"),
            ("prompt;case_number\na;1\n", "it names: prompt;case_number"),
            ("text,case_number\na,1\n", "it names: text, case_number"),
            ("prompt,prompt\na,b\n", "2 columns are called prompt"),
            ("prompt,case_number\na,1\n,2\n", "line 3: the prompt is empty"),
            ("prompt,case_number\na,\n", "line 2: case_number is empty"),
            ("prompt,case_number\na,1\nb,2\nc,1\n", "line 4: case_number 1 is already that of line 2"),
            ("prompt,case_number\na cat, a dog,1\n", "line 2: there are 3 cells for 2 columns, the last is '1'"),
            ("prompt,evaluation_seed\na,x\n", "line 2: evaluation_seed must be a whole number from 0, not 'x'"),
            ("prompt,evaluation_seed\na,-1\n", "evaluation_seed must be"),
            ("prompt,evaluation_seed\na,1.5\n", "evaluation_seed must be"),
            ("prompt,evaluation_seed\na,nan\n", "evaluation_seed must be"),
            ("prompt,evaluation_guidance\na,nan\n", "evaluation_guidance must be a number ≥ 0, not 'nan'"),
            ("prompt,sd_image_width\na,500\n", "sd_image_width must be a multiple of 8, not '500'"),
            ('prompt\na\n"b\n', "line 3: unexpected end of data"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_line(self, tmp_path, text, said):
        with pytest.raises(DataError) as error:
            read_prompts(written(tmp_path, text))
        assert said in str(error.value) and "prompts.csv" in str(error.value)

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(DataError, match="line 3: the text is not UTF-8"):
            read_prompts(written(tmp_path, "prompt\na\nné\n", "latin-1"))
        with pytest.raises(DataError, match=r"missing\.csv does not exist"):
            read_prompts(tmp_path / "missing.csv")
        with pytest.raises(EmptySet, match="no prompt"):
            read_prompts(written(tmp_path, "prompt\n"))


class Painter:
    """A pipeline that paints what it was called with, and remembers its calls."""

    def __init__(self, weight=1.0):
        self.unet = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.unet.weight, weight)
        self.components = {"unet": self.unet}
        self.calls = []
        self._progress_bar_config = {}

    def set_progress_bar_config(self, **config):
        self._progress_bar_config = config

    def __call__(
        self, prompt, num_inference_steps, generator, output_type, guidance_scale=7.5, width=None, height=None
    ):
        assert output_type == "np"
        self.calls.append((tuple(prompt), num_inference_steps, guidance_scale, width, height))
        size = (height or 8, width or 8, 3)
        return SimpleNamespace(images=np.stack([torch.rand(size, generator=g).numpy() for g in generator]))


PROMPTS = (Prompt("a", 3, seed=11), Prompt("b", 5), Prompt("c", 9, guidance_scale=2.0, width=16))


def images(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


class TestSampling:
    def test_a_prompts_own_settings_go_before_the_runs(self, tmp_path):
        painter = Painter()
        made = sample_prompts(painter, PROMPTS, tmp_path, PromptSampler(steps=3, height=24), engine=ENGINE, count=2)
        assert made == 6
        assert painter.calls == [(("a", "a", "b", "b"), 3, 7.5, None, 24), (("c", "c"), 3, 2.0, 16, 24)]
        assert set(images(tmp_path)) == {f"{case}_{i}.png" for case in (3, 5, 9) for i in (0, 1)}
        assert images(tmp_path)["9_0.png"].shape == (24, 16, 3)

    def test_the_first_image_has_the_tables_seed_and_no_two_share_one(self):
        wanted = shots(PROMPTS, PromptSampler(seed=4), 3)
        assert wanted[0].seed == 11 and wanted[3].seed == seed_of(4, "prompt", 5, 0)
        assert len({shot.seed for shot in wanted}) == 9

    def test_batches_change_nothing(self, tmp_path):
        for size in (1, 2, 5):
            sample_prompts(Painter(), PROMPTS, tmp_path / str(size), PromptSampler(), engine=ENGINE, batch_size=size)
        first = images(tmp_path / "1")
        for size in ("2", "5"):
            assert all(np.array_equal(first[name], image) for name, image in images(tmp_path / size).items())

    def test_what_is_there_stays_and_what_is_broken_is_made_again(self, tmp_path):
        options = {"engine": ENGINE, "batch_size": 2}
        sample_prompts(Painter(), PROMPTS, tmp_path, PromptSampler(), **options)
        before = images(tmp_path)
        (tmp_path / "3_0.png").unlink()
        (tmp_path / "5_0.png").write_bytes((tmp_path / "5_0.png").read_bytes()[:40])
        painter = Painter()
        assert sample_prompts(painter, PROMPTS, tmp_path, PromptSampler(), **options) == 2
        assert painter.calls == [(("a", "b"), 50, 7.5, None, None)]
        assert all(np.array_equal(before[name], image) for name, image in images(tmp_path).items())
        assert sample_prompts(Painter(), PROMPTS, tmp_path, PromptSampler(), **options, count=2) == 3

    @pytest.mark.parametrize(
        ("weight", "prompts", "sampler", "said"),
        [
            (2.0, PROMPTS, PromptSampler(), "weights differs"),
            (1.0, PROMPTS[:2], PromptSampler(), "prompts differs"),
            (1.0, PROMPTS, PromptSampler(steps=4), "sampler differs"),
        ],
    )
    def test_images_made_otherwise_are_refused(self, tmp_path, weight, prompts, sampler, said):
        sample_prompts(Painter(), PROMPTS, tmp_path, PromptSampler(), engine=ENGINE)
        with pytest.raises(FolderError, match=f"made otherwise: {said}"):
            sample_prompts(Painter(weight), prompts, tmp_path, sampler, engine=ENGINE)

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(FolderError, match="a file, but a folder"):
            sample_prompts(Painter(), PROMPTS, tmp_path / "file", PromptSampler(), engine=ENGINE)

    def test_the_safety_checker_is_left_out_and_put_back(self, tmp_path):
        class Checked(Painter):
            safety_checker = "a checker"

            def register_modules(self, **parts):
                self.__dict__.update(parts)

            def __call__(self, prompt, num_inference_steps, generator, output_type):
                assert self.safety_checker is None
                return super().__call__(prompt, num_inference_steps, generator, output_type)

        painter = Checked()
        assert sample_prompts(painter, PROMPTS[:1], tmp_path, PromptSampler(), engine=ENGINE) == 1
        assert painter.safety_checker == "a checker"

    def test_other_pipelines_are_refused(self, tmp_path):
        class OfClasses:
            def __call__(self, class_labels, generator, num_inference_steps, output_type): ...

        class OfImages:
            def __call__(self, prompt, image, generator, num_inference_steps, output_type): ...

        for pipeline, said in ((OfClasses(), "does not take prompt"), (OfImages(), "takes an image")):
            with pytest.raises(ModelError, match=f"{said}.*StableDiffusionPipeline.*SanaPipeline"):
                sample_prompts(pipeline, PROMPTS, tmp_path, PromptSampler(), engine=ENGINE)

    def test_a_disk_that_fills_keeps_what_is_whole_and_the_same_call_goes_on(self, tmp_path, monkeypatch):
        """The second image of a batch of three is where the disk ends; the batch before it and the first stay."""
        sync, done = os.fsync, []

        def full(handle):
            done.append(handle)
            if len(done) == 4:  # the record, then images
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        folder, options = tmp_path / "set", {"engine": ENGINE, "count": 2, "batch_size": 3}
        monkeypatch.setattr(untrain.io.os, "fsync", full)
        with pytest.raises(FolderError, match=r"5_0\.png cannot be written: No space left.*Free some space"):
            sample_prompts(Painter(), PROMPTS, folder, PromptSampler(), **options)
        assert sorted(path.name for path in folder.iterdir()) == ["3_0.png", "3_1.png", "samples.json"]
        monkeypatch.undo()
        assert sample_prompts(Painter(), PROMPTS, folder, PromptSampler(), **options) == 4
        sample_prompts(Painter(), PROMPTS, tmp_path / "whole", PromptSampler(), **options)
        assert all(np.array_equal(images(folder)[name], image) for name, image in images(tmp_path / "whole").items())

    def test_images_that_are_not_finite_are_an_error_and_not_black(self, tmp_path):
        class Damaged(Painter):
            def __call__(self, prompt, num_inference_steps, generator, output_type):
                made = super().__call__(prompt, num_inference_steps, generator, output_type)
                made.images[-1, 0, 0, 0] = np.nan
                return made

        with pytest.raises(ModelError, match="case 3, or one made with it, is not finite"):
            sample_prompts(Damaged(), PROMPTS[:2], tmp_path, PromptSampler(), engine=ENGINE)
        assert not images(tmp_path)

    def test_prompts_that_are_too_long_are_said(self, tmp_path):
        class Words:
            model_max_length = 4

            def __call__(self, texts, verbose):
                return SimpleNamespace(input_ids=[[0, *text.split(), 1] for text in texts])

        painter = Painter()
        painter.components["tokenizer"] = Words()
        prompts = (Prompt("a cat", 0, line=2), Prompt("a cat and a dog", 1, line=3))
        assert too_long(painter, prompts) == {1: 7}
        with pytest.warns(UserWarning, match="1 of 2 prompts .* case 1, line 3: 7 tokens"):
            sample_prompts(painter, prompts, tmp_path, PromptSampler(), engine=ENGINE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample_prompts(painter, prompts[:1], tmp_path / "short", PromptSampler(), engine=ENGINE)

    def test_numbers_out_of_range(self, tmp_path):
        for culprit, value in {"steps": 0, "guidance_scale": -1.0, "width": 9}.items():
            with pytest.raises(SettingError, match=culprit):
                PromptSampler(**{culprit: value})
        with pytest.raises(SettingError, match="at least 1 image"):
            shots(PROMPTS, PromptSampler(), 0)
        with pytest.raises(EmptySet):
            sample_prompts(Painter(), (), tmp_path, PromptSampler(), engine=ENGINE)


class TestRealPipeline:
    @pytest.mark.parametrize("name", ["pipe", "xl"])
    def test_the_first_image_is_what_diffusers_makes_of_the_seed(self, name, tmp_path, request):
        """To the last bit, both alone in their batches."""
        pipeline = request.getfixturevalue(name)
        prompts = (Prompt(TEXTS[0], 0, seed=7, guidance_scale=3.0), Prompt(TEXTS[1], 1, seed=8, guidance_scale=3.0))
        sample_prompts(pipeline, prompts, tmp_path, PromptSampler(steps=3), engine=ENGINE, batch_size=1)
        for prompt in prompts:
            generator = torch.Generator().manual_seed(prompt.seed)
            made = pipeline(prompt.text, num_inference_steps=3, guidance_scale=3.0, generator=generator).images[0]
            ours = images(tmp_path)[f"{prompt.case}_0.png"]
            assert np.array_equal(ours, np.asarray(made)) and ours.std() > 1

    def test_other_sizes_and_prompts_longer_than_the_window(self, pipe, tmp_path):
        prompts = (Prompt("a red circle", 0, width=24, height=16), Prompt("a red circle " * 3, 1, line=3))
        with pytest.warns(UserWarning, match="1 of 2 prompts .* case 1, line 3: 32 tokens"):
            sample_prompts(pipe, prompts, tmp_path, PromptSampler(steps=1), engine=ENGINE)
        assert [images(tmp_path)[f"{case}_0.png"].shape for case in (0, 1)] == [(16, 24, 3), (16, 16, 3)]

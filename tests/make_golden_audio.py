"""`python tests/make_golden_audio.py` writes tests/data/log_mel.npz by librosa 0.11, which nothing else here needs."""

from pathlib import Path

import numpy as np

RATES = {16_000: 80, 8_000: 40}  # Hz: bands
SECONDS = 0.2


def main() -> None:
    import librosa

    rng = np.random.default_rng(0)
    vectors: dict[str, np.ndarray] = {}
    for rate, bands in RATES.items():
        time = np.arange(round(SECONDS * rate)) / rate
        swept = np.sin(2 * np.pi * (100 + rate * time) * time) * np.exp(-10 * time)
        x = (0.3 * swept + 0.01 * rng.normal(size=time.size)).astype(np.float32)
        power = librosa.feature.melspectrogram(
            y=x.astype(np.float64),
            sr=rate,
            n_fft=rate // 40,
            hop_length=rate // 100,
            window="hamming",
            pad_mode="constant",
            n_mels=bands,
            htk=True,
            norm=None,
        )
        decibels = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80)
        vectors.update({f"{rate}.x": x, f"{rate}.db": decibels.astype(np.float32)})
    np.savez_compressed(Path(__file__).parent / "data" / "log_mel.npz", **vectors)


if __name__ == "__main__":
    main()

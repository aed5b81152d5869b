"""Write `data/golden_methods.npz`: run once, at a time when the library agrees with the authors' numbers."""

from __future__ import annotations

import numpy as np
import torch

from test_methods_golden import DEVICES, OURS, splitting, zeroth_order


def main() -> None:
    g = torch.Generator().manual_seed(20)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    out: dict[str, np.ndarray] = {}

    def keep(name: str, case: dict[str, torch.Tensor]) -> None:
        out.update({f"{name}.{k}": v.numpy() for k, v in case.items()})

    for device, rows, count in (("light_modulator", 4, 3), ("microring", 20, 5), ("mesh_three_splitter", 5, 4)):
        made = DEVICES[device](8, 6)
        size = made.theta.size
        case = {"x": normal(rows, 8), "theta": made.theta.draw(g), "grad_y": normal(rows, 6), "u": normal(count, size)}
        case["mu"] = torch.tensor(0.01)
        name = f"{device}.B{rows}.M{count}"
        keep(name, {**case, "grad_theta": zeroth_order(name, case)})
    for rank, probes, d_in, d_out in ((3, 50, 12, 9), (2, 5, 6, 6)):
        A0 = normal(d_out, d_in)
        U, S, V = torch.linalg.svd(A0, full_matrices=False)
        factors = {"U0": U[:, :rank].clone(), "S0": S[:rank].diag(), "V0": V[:rank].clone()}
        case = {"A0": A0, "A1": A0 + 0.1 * normal(d_out, d_in), "Z": normal(probes, d_in), **factors}
        keep(f"r{rank}.M{probes}.{d_in}x{d_out}", {**case, "A1_approx": splitting(case)})
    np.savez_compressed(OURS, **out)


if __name__ == "__main__":
    main()

import pytest
import torch
from torch import nn

from fastgan.training import EMA


def test_averages_parameters_and_buffers():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    ema = EMA(module, decay=0.25)
    expected = {key: value.double().clone() for key, value in module.state_dict().items()}
    for update in range(1, 6):
        with torch.no_grad():
            for tensor in (*module.parameters(), module[1].running_mean, module[1].running_var):
                tensor.add_(torch.randn_like(tensor))
            module[1].num_batches_tracked.add_(1)
        ema.update(module)
        decay = min(0.25, (1 + update) / (10 + update))
        for key, value in module.state_dict().items():
            expected[key] = decay * expected[key] + (1 - decay) * value
    expected["1.num_batches_tracked"] = torch.tensor(5.0, dtype=torch.float64)
    for key, value in ema.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key], msg=key)


def test_forgets_the_start_weights_soon():
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    ema = EMA(module, decay=0.9999)
    nn.init.constant_(module.weight, 0.0)
    for _ in range(20):
        ema.update(module)
    assert ema.module.weight.item() < 1e-4


def test_copy_is_its_own_and_frozen():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EMA(module, decay=0.5)
    assert module.training and not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    before = ema.module[0].weight.clone()
    nn.init.zeros_(module[0].weight)
    assert torch.equal(ema.module[0].weight, before)


@pytest.mark.parametrize("decay", [0.0])
def test_no_averaging(decay):
    module = nn.Linear(2, 2)
    ema = EMA(module, decay)
    nn.init.ones_(module.weight)
    ema.update(module)
    assert torch.equal(ema.module.weight, module.weight)

from .train import plant as plant

from .ray_pool import on_ray as on_ray
from .resume import resumable as resumable

from .checkpoint import export_model as export_model
from .manifest import Manifest as Manifest
from .manifest import load_manifest as load_manifest

import importlib.util
from pathlib import Path
def load_code(path):
    spec = importlib.util.spec_from_file_location("pixtral", path)
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module

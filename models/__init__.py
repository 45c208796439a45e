"""Everything that computes: codecs, transforms, entropy models, heads."""

import warnings

# CompressAI 1.2.8 scripts a function when it is imported, which newer torch versions announce on every start.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

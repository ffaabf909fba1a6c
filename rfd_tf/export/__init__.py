"""Pretrained backbones as files that other programs run: SavedModel, ONNX, LiteRT, Keras.

`export_backbone` does the whole of it: build, run, compare with Keras, describe. The steps can
be used alone: `deployable` (a model from pixels to named features), `write_saved_model`,
`write_onnx`, `write_litert`, and the comparisons `verify_saved_model`, `verify_onnx`,
`verify_litert`, `verify_keras`. `push` exports to the Hugging Face Hub.
"""

from rfd_tf.lazy import attach

_HOMES = {
    "FORMATS": "backbone",
    "export_backbone": "backbone",
    "OUTPUTS": "features",
    "deployable": "features",
    "Embedder": "embedders",
    "embed_pixels": "embedders",
    "keras_embedder": "embedders",
    "onnx_embedder": "embedders",
    "embed_folder": "embeddings",
    "LiteRTModel": "litert",
    "write_litert": "litert",
    "push": "hub",
    "OnnxModel": "onnx_model",
    "QUANTIZATIONS": "quantize",
    "convert_float16": "quantize",
    "quantize_int8": "quantize",
    "find_saved_model": "saved_model",
    "write_saved_model": "saved_model",
    "INPUT_DTYPES": "onnx",
    "LAYOUTS": "onnx",
    "OPSETS": "onnx",
    "write_onnx": "onnx",
    "ExportMismatch": "verify",
    "verification_images": "verify",
    "verify_keras": "verify",
    "verify_litert": "verify",
    "verify_onnx": "verify",
    "verify_saved_model": "verify",
}

# Nobody who wants one format should need the packages of another.
__getattr__, __dir__, __all__ = attach(__name__, names=_HOMES)

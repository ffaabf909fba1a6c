"""Images, from where they lie to the batches a method trains on.

`sources` finds the images and gives each a dense, stable index; `pipeline` turns a source into a
`tf.data.Dataset` of batches; `augment` holds the batched augmentations; `views` makes the rotated
views, on the device. TensorFlow is imported with `pipeline` and `augment`, not before.
"""

from rfd_tf.lazy import attach

_MODULES = ("augment", "pipeline", "remote", "shards", "sources", "training_stream", "views")
_NAMES = {
    "ArraySource": "sources",
    "DATASETS": "sources",
    "CropSettings": "sources",
    "FolderSource": "sources",
    "PhotoSource": "sources",
    "Source": "sources",
    "TfdsSource": "sources",
    "clothing": "sources",
    "digits": "sources",
    "image_folder": "sources",
    "image_list": "sources",
    "load": "sources",
    "photo_crops": "sources",
    "tfds": "sources",
    "evaluation_dataset": "pipeline",
    "load_images": "pipeline",
    "steps_per_epoch": "pipeline",
    "training_dataset": "pipeline",
    "TrainingStream": "training_stream",
    "flatten_views": "views",
    "rotate": "views",
    "rotate_each": "views",
}

__getattr__, __dir__, __all__ = attach(__name__, _MODULES, _NAMES)

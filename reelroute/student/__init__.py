"""The local student: a small text encoder that routes a query in a millisecond or two.

`StudentModel` answers with ONNX Runtime, tokenizers and numpy alone. `train` (in
`reelroute.student.train`) makes its model folder and needs torch; nothing here imports it.
"""

from reelroute.student.card import ModelCard
from reelroute.student.errors import StudentError
from reelroute.student.model import Prediction, StudentModel
from reelroute.student.rows import LabelledRow

__all__ = ["LabelledRow", "ModelCard", "Prediction", "StudentError", "StudentModel"]

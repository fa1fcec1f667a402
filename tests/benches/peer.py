"""The Python original, warm, in one process: reads a picture's path per line, answers the seconds that one pass took and the lines read."""
import sys
import time

from rapidocr_onnxruntime import RapidOCR

threads = int(sys.argv[1])
engine = RapidOCR(intra_op_num_threads=threads, inter_op_num_threads=1)
for line in sys.stdin:
    began = time.perf_counter()
    result, _ = engine(line.strip())
    print(time.perf_counter() - began, len(result or []), flush=True)

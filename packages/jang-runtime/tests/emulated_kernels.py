"""Kernel texts as MLX would hand them to a GPU's compiler, compiled for the host and run there.

The signature follows mlx/backend/common/metal_kernel.cpp and mlx/backend/cuda/custom_kernel.cpp
(0.32): parameters, address spaces of small arrays, shapes and attributes that the text names.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from jang_runtime._blocks.kernel_texts import (
    OUTPUT,
    TYPES,
    Constants,
    GpuBackend,
    KernelName,
    KernelText,
    kernel_text,
)

COMPILER = next((found for name in ("g++", "clang++") if (found := shutil.which(name))), None)
HEADERS = Path(__file__).parent / "emulation"

ELEMENTS = {
    "x": "T",
    "indices": "uint32_t",
    "rows": "uint32_t",
    "qweight": "uint32_t",
    "scales": "uint16_t",
    "zeros": "uint16_t",
    "bit_map": "uint8_t",
    "block_offsets": "uint32_t",
    "matrix_offsets": "uint64_t",
    "columns": "uint32_t",
}
METAL_ATTRIBUTES = {
    "thread_index_in_simdgroup": ("uint", "emulation::lane()"),
    "thread_index_in_threadgroup": ("uint", "emulation::group.running"),
    "simdgroup_index_in_threadgroup": ("uint", "emulation::simd_group()"),
    "threadgroup_position_in_grid": (
        "uint3",
        "metal::uint3{emulation::group.x, emulation::group.y, 0}",
    ),
}


@dataclass(frozen=True)
class Instance:
    """A kernel for a type of vectors, with constants."""

    kernel: KernelName
    backend: GpuBackend
    dtype: mx.Dtype
    constants: Constants

    @property
    def text(self) -> KernelText:
        return kernel_text(self.kernel, self.backend, self.dtype, self.constants)

    @property
    def name(self) -> str:
        return f"{self.backend}_{self.text.name}"

    @property
    def element(self) -> str:
        return TYPES[self.backend][self.dtype]


def metal_source(instance: Instance) -> str:
    text = instance.text
    parameters: list[str] = []
    for name in text.inputs:
        element = instance.element if name == "x" else ELEMENTS[name]
        # MLX puts arrays of fewer than 8 elements into constant memory.
        space = "constant" if name == "columns" else "device"
        parameters.append(f"const {space} {element}* {name} [[buffer({len(parameters)})]]")
        if f"{name}_shape" in text.body:
            parameters.append(f"const constant int* {name}_shape [[buffer({len(parameters)})]]")
    parameters.append(f"device {instance.element}* {OUTPUT} [[buffer({len(parameters)})]]")
    parameters += [
        f"{kind} {name} [[{name}]]"
        for name, (kind, _) in METAL_ATTRIBUTES.items()
        if name in text.body
    ]
    return (
        f"{text.header}\n[[kernel]] void {text.name}(\n  "
        + ",\n  ".join(parameters)
        + f") {{\n{text.body}\n}}\n"
    )


def cuda_source(instance: Instance) -> str:
    text = instance.text
    parameters: list[str] = []
    for name in text.inputs:
        parameters.append(f"const {instance.element if name == 'x' else ELEMENTS[name]}* {name}")
        if f"{name}_shape" in text.body:
            parameters.append(f"const __grid_constant__ Shape {name}_shape")
    parameters.append(f"{instance.element}* {OUTPUT}")
    return (
        f"{text.header}\n__global__ void {text.name}(\n  "
        + ",\n  ".join(parameters)
        + f") {{\n{text.body}\n}}\n"
    )


def launcher(instance: Instance) -> str:
    """The case of the program's main function that runs an instance."""
    text = instance.text
    arguments: list[str] = []
    for number, name in enumerate(text.inputs):
        kind = instance.element if name == "x" else ELEMENTS[name]
        before = "job.before" if name == "qweight" else "0"
        arguments.append(f"job.input<{kind}>({number}, {before})")
        if f"{name}_shape" in text.body:
            shape = f"job.shapes[{number}]"
            arguments.append(f"{shape}.sizes" if instance.backend == "metal" else shape)
    arguments.append(f"reinterpret_cast<{instance.element}*>(job.output.data())")
    if instance.backend == "metal":
        arguments += [value for name, (_, value) in METAL_ATTRIBUTES.items() if name in text.body]
    return (
        f'  if (job.name == "{instance.name}") {{\n'
        f"    job.run([&] {{ {instance.name}::{text.name}({', '.join(arguments)}); }});\n"
        "    return 0;\n  }\n"
    )


MAIN = """
struct Job {
  std::string name;
  uint32_t groups[2], threads;
  uint64_t before;  // bytes that are thought before the first of qweight
  std::vector<std::vector<char>> inputs;
  std::vector<Shape> shapes;
  std::vector<char> output;

  template <typename T>
  const T* input(int n, uint64_t bytes_before) {
    return reinterpret_cast<const T*>(inputs[n].data() - bytes_before);
  }
  void run(const std::function<void()>& kernel) {
    for (uint32_t y = 0; y < groups[1]; ++y) {
      for (uint32_t x = 0; x < groups[0]; ++x) emulation::run_group(x, y, threads, kernel);
    }
  }
};

template <typename T>
T read() {
  T value;
  if (std::fread(&value, sizeof(T), 1, stdin) != 1) std::exit(4);
  return value;
}

std::vector<char> read_bytes(size_t size) {
  std::vector<char> bytes(size);
  if (std::fread(bytes.data(), 1, size, stdin) != size) std::exit(4);
  return bytes;
}

int run(Job& job);

int main() {
  Job job;
  const std::vector<char> name = read_bytes(read<uint32_t>());
  job.name.assign(name.begin(), name.end());
  job.groups[0] = read<uint32_t>(), job.groups[1] = read<uint32_t>();
  job.threads = read<uint32_t>(), job.before = read<uint64_t>();
  const uint32_t inputs = read<uint32_t>();
  for (uint32_t n = 0; n < inputs; ++n) {
    Shape shape{};
    for (int d = 0; d < 3; ++d) shape.sizes[d] = read<int32_t>();
    job.shapes.push_back(shape);
    job.inputs.push_back(read_bytes(read<uint64_t>()));
  }
  // What the kernel leaves out stays visible.
  job.output.assign(read<uint64_t>(), char(0xff));
  if (run(job)) return 5;
  std::fwrite(job.output.data(), 1, job.output.size(), stdout);
}
"""


def compile_instances(instances: Sequence[Instance], folder: Path) -> Path:
    """A program that runs any of the instances, under the address and behaviour sanitizers."""
    assert COMPILER is not None
    make = {"metal": metal_source, "cuda": cuda_source}
    source = ['#include "emulation.h"\n']
    for instance in instances:
        text = make[instance.backend](instance)
        source.append(f"namespace {instance.name} {{\n{text}}}\n")
        # Macros end with the text that made them.
        source += [f"#undef {name}\n" for name in set(re.findall(r"#define (\w+)", text))]
    source += [MAIN, "int run(Job& job) {\n", *map(launcher, instances), "  return 1;\n}\n"]
    file, program = folder / "kernels.cpp", folder / "kernels"
    file.write_text("".join(source))
    sanitizers = "-fsanitize=address,undefined"
    quiet = ["-Wno-attributes", "-Wno-unknown-pragmas", "-Wno-unused-variable"]
    command = [COMPILER, "-std=c++20", "-O2", sanitizers, "-fno-sanitize=pointer-overflow"]
    command += ["-fno-sanitize-recover=all", "-Wall", *quiet, f"-I{HEADERS}"]
    done = subprocess.run(
        [*command, str(file), "-o", str(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    return program


@dataclass(frozen=True)
class EmulatedKernel:
    """Called like a kernel of MLX; runs the program.

    Attributes:
        program: What `compile_instances` made.
        instance: One of those that it was made of.
        before: Bytes that are thought before the first of `qweight`.
    """

    program: Path
    instance: Instance
    before: int = 0

    def __call__(
        self,
        *,
        inputs: Sequence[mx.array],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[mx.Dtype],
    ) -> list[mx.array]:
        assert threadgroup[1:] == (1, 1)
        assert grid[0] % threadgroup[0] == 0
        name = self.instance.name.encode()
        groups = [grid[0] // threadgroup[0], grid[1], threadgroup[0]]
        job = [np.uint32(len(name)).tobytes(), name, np.uint32(groups).tobytes()]
        job += [np.uint64(self.before).tobytes(), np.uint32(len(inputs)).tobytes()]
        for array in inputs:
            stored = bytes_of(array)
            shape = (*array.shape, 0, 0)[:3]
            job += [np.int32(shape).tobytes(), np.uint64(len(stored)).tobytes(), stored]
        nbytes = int(np.prod(output_shapes[0])) * output_dtypes[0].size
        job.append(np.uint64(nbytes).tobytes())
        done = subprocess.run(
            [str(self.program)],
            input=b"".join(job),
            capture_output=True,
            check=False,
            env={"ASAN_OPTIONS": "detect_stack_use_after_return=0:detect_leaks=0"},
        )
        assert done.returncode == 0, done.stderr.decode()[:3000]
        flat = mx.array(np.frombuffer(done.stdout, np.uint8)).view(output_dtypes[0])
        return [flat.reshape(output_shapes[0])]


def bytes_of(array: mx.array) -> bytes:
    """The bytes of an array; numpy has no bfloat16."""
    return np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes()

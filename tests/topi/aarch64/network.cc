// Runs an artifact's library in TVM's virtual machine, as tvm_shiftadd/_runtime.py does:
// network LIBRARY FUNCTION INPUT OUTPUT.
//
// INPUT holds two numbers (int32), of the inputs and of the parameters, and these: code, bits and
// number of dimensions (int32), the shape (int64), the elements. OUTPUT gets the results in the
// same form, their number first.
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include <cstdlib>
#include <fstream>
#include <vector>

using namespace tvm::ffi;

namespace {

struct Memory {
  static constexpr size_t kAlignment = 64;
  void AllocData(DLTensor* tensor) {
    size_t bytes = (GetDataSize(*tensor) + kAlignment) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, bytes);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

size_t BytesOf(const Tensor& tensor) { return GetDataSize(*tensor.GetDLTensorPtr()); }

template <typename T>
T Get(std::istream& file) {
  T value;
  file.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

template <typename T>
void Put(std::ostream& file, T value) {
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
}

Tensor GetTensor(std::istream& file) {
  DLDataType dtype;
  dtype.code = static_cast<uint8_t>(Get<int32_t>(file));
  dtype.bits = static_cast<uint8_t>(Get<int32_t>(file));
  dtype.lanes = 1;
  std::vector<int64_t> shape(Get<int32_t>(file));
  for (int64_t& size : shape) size = Get<int64_t>(file);
  Tensor tensor = Tensor::FromNDAlloc(Memory(), Shape(shape), dtype, DLDevice{kDLCPU, 0});
  file.read(static_cast<char*>(tensor.data_ptr()), BytesOf(tensor));
  return tensor;
}

void PutTensor(std::ostream& file, const Tensor& tensor) {
  Put<int32_t>(file, tensor.dtype().code);
  Put<int32_t>(file, tensor.dtype().bits);
  Put<int32_t>(file, tensor.ndim());
  for (int64_t size : tensor.shape()) Put<int64_t>(file, size);
  file.write(static_cast<const char*>(tensor.data_ptr()), BytesOf(tensor));
}

std::vector<Tensor> Run(const Module& machine, const char* function, std::istream& input) {
  int32_t inputs = Get<int32_t>(input), parameters = Get<int32_t>(input);
  std::vector<Tensor> operands;
  for (int32_t i = 0; i < inputs; ++i) operands.push_back(GetTensor(input));
  Array<Tensor> weights;
  for (int32_t i = 0; i < parameters; ++i) weights.push_back(GetTensor(input));
  Function prepare = machine->GetFunction("main_transform_params", true).value();
  for (Tensor weight : prepare(weights).cast<Array<Tensor>>()) operands.push_back(weight);
  std::vector<AnyView> arguments(operands.begin(), operands.end());
  Any result;
  machine->GetFunction(function, true).value().CallPacked(arguments.data(), arguments.size(),
                                                          &result);
  if (std::optional<Tensor> one = result.as<Tensor>()) return {*one};
  std::vector<Tensor> results;
  for (Tensor one : result.cast<Array<Tensor>>()) results.push_back(one);
  return results;
}

}  // namespace

int main(int count, char** names) {
  if (count != 5) return 2;
  Module library = Module::LoadFromFile(names[1]);
  Module machine = library->GetFunction("vm_load_executable", true).value()().cast<Module>();
  constexpr int kPooled = 2;
  machine->GetFunction("vm_initialization", true).value()(static_cast<int>(kDLCPU), 0, kPooled);
  std::ifstream input(names[3], std::ios::binary);
  std::vector<Tensor> results = Run(machine, names[2], input);
  std::ofstream output(names[4], std::ios::binary);
  Put<int32_t>(output, static_cast<int32_t>(results.size()));
  for (const Tensor& result : results) PutTensor(output, result);
  return input && output ? 0 : 2;
}

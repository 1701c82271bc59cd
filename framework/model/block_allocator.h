#pragma once
// Memory of large tensors on the CPU. malloc keeps activations that live until the backward pass and temporaries of all sizes in one heap, whose holes grow
// with every step: a third of the peak of an adapter's step on a model of 1.1 B. Here each tensor of a megabyte or more has pages of its own, and what is given
// back serves the next one of about its size.
#include <cstddef>

namespace tenon::host {

// From now on, for the whole process: LibTorch's allocator for the CPU. What was allocated before stays where it is. Once, before threads allocate.
void use_block_allocator();

// Of blocks, in bytes. What is kept, given back and not yet to the system, never lifts the sum above the most that was in use by more than 64 MB.
struct BlockMemory {
  std::size_t in_use, kept, most_in_use;
};
BlockMemory block_memory();

}  // namespace tenon::host

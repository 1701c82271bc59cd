#include "model/block_allocator.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/CPUAllocator.h>
#include <doctest/doctest.h>

#include <cstdint>
#include <thread>
#include <vector>

using namespace tenon::host;

TEST_CASE("large tensors: given back memory serves the next one of its size, is bounded, and never shared") {
  at::Tensor before = at::full({1 << 20}, 7, at::kFloat);  // from the allocator of before, given back after
  use_block_allocator();
  CHECK(block_memory().kept == 0);
  const void* first = nullptr;
  {
    const at::Tensor x = at::full({3 << 20}, 1, at::kFloat);
    first = x.const_data_ptr();
    CHECK(reinterpret_cast<std::uintptr_t>(first) % (2 << 20) == 0);
  }
  CHECK(block_memory().kept == 12 << 20);
  {
    const at::Tensor x = at::empty({(3 << 20) - 1000}, at::kFloat), y = at::full({3 << 20}, 2, at::kFloat);
    CHECK(x.const_data_ptr() == first);
    CHECK(y.const_data_ptr() != first);
    CHECK(block_memory().kept == 0);
    at::Tensor much_smaller = at::full({1 << 20}, 3, at::kFloat);
    CHECK(y.sum().item<double>() == 2.0 * (3 << 20));
  }
  // Sizes that never come again: what is kept of them makes way.
  for (const int64_t size : {1 << 20, 3 << 19, 9 << 18, 27 << 17}) {
    std::vector<at::Tensor> many;
    for (int i = 0; i < 40; ++i) {
      many.push_back(at::full({size + 4096 * i}, i, at::kFloat));
      const BlockMemory memory = block_memory();
      CHECK(memory.in_use + memory.kept <= memory.most_in_use + (64 << 20));
    }
    for (int i = 0; i < 40; ++i) CHECK(many[static_cast<std::size_t>(i)].min().item<float>() == i);
  }
  CHECK(block_memory().in_use == 0);
  CHECK(block_memory().kept > 64 << 20);

  // Small ones, the raw interface, and what cannot be had.
  at::Allocator* allocator = c10::GetCPUAllocator();
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{100}, std::size_t{5} << 20})
    allocator->raw_deallocate(allocator->raw_allocate(bytes));
  CHECK_THROWS_WITH_AS(allocator->allocate(std::size_t{1} << 60), doctest::Contains("can't allocate memory"), std::exception);

  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t, &wrong] {
      for (int i = 0; i < 50; ++i) {
        const at::DataPtr mine = c10::GetCPUAllocator()->allocate((1 << 20) + 65536 * static_cast<std::size_t>(i % 5));
        auto* bytes = static_cast<unsigned char*>(mine.get());
        bytes[0] = bytes[(1 << 20) - 1] = static_cast<unsigned char>(t);
        std::this_thread::yield();
        wrong[static_cast<std::size_t>(t)] += bytes[0] != t || bytes[(1 << 20) - 1] != t;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
}

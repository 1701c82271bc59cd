#include "model/block_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <unordered_map>

namespace tenon::host {

namespace {

constexpr std::size_t kSmallest = std::size_t{1} << 20;  // smaller ones are malloc's
constexpr std::size_t kUnit = std::size_t{64} << 10;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kSlack = std::size_t{64} << 20;

class BlockAllocator final : public at::Allocator {
 public:
  at::DataPtr allocate(std::size_t bytes) override {
    void* block = bytes >= kSmallest && bytes < SIZE_MAX / 2 ? take((bytes + kUnit - 1) / kUnit * kUnit) : nullptr;
    if (!block) return small_->allocate(bytes);  // which also says what could not be had
    return {block, block, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  BlockMemory memory() {
    const std::lock_guard lock(mutex_);
    return {in_use_, kept_, most_in_use_};
  }

 private:
  struct Free {
    void* block;
    std::size_t size;
  };

  void* take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    if (const auto found = by_size_.lower_bound(size); found != by_size_.end() && found->first <= size + size / 8) {
      const Free free = *found->second;
      forget(found);
      return use(free.block, free.size);
    }
    void* block = map(size);
    if (!block && kept_ > 0) {
      trim(0);
      block = map(size);
    }
    return block ? use(block, size) : nullptr;
  }

  void* use(void* block, std::size_t size) {
    used_.emplace(block, size);
    in_use_ += size;
    most_in_use_ = std::max(most_in_use_, in_use_);
    trim(most_in_use_ - in_use_ + kSlack);
    return block;
  }

  // Where huge pages begin, so that a large block is made of them.
  static void* map(std::size_t size) {
    const std::size_t slack = size >= kHugePage ? kHugePage : 0;
    void* all = ::mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    if (slack == 0) return all;
    auto* begin = static_cast<char*>(all);
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(begin) % kHugePage;
    if (before > 0) ::munmap(begin, before);
    if (slack > before) ::munmap(begin + before + size, slack - before);
    ::madvise(begin + before, size, MADV_HUGEPAGE);
    return begin + before;
  }

  static void release(void* block);

  void give_back(void* block) {
    const std::lock_guard lock(mutex_);
    const auto found = used_.find(block);
    if (found == used_.end()) return small_->raw_deallocate(block);  // came from the raw interface
    const std::size_t size = found->second;
    used_.erase(found);
    in_use_ -= size;
    oldest_first_.push_back({block, size});
    by_size_.emplace(size, std::prev(oldest_first_.end()));
    kept_ += size;
    trim(most_in_use_ - in_use_ + kSlack);
  }

  void trim(std::size_t limit) {
    while (kept_ > limit) {
      const auto oldest = oldest_first_.begin();
      auto [entry, end] = by_size_.equal_range(oldest->size);
      while (entry != end && entry->second != oldest) ++entry;
      const Free free = *oldest;
      forget(entry);
      ::munmap(free.block, free.size);
    }
  }

  using BySize = std::multimap<std::size_t, std::list<Free>::iterator>;
  void forget(BySize::iterator entry) {
    kept_ -= entry->first;
    oldest_first_.erase(entry->second);
    by_size_.erase(entry);
  }

  at::Allocator* const small_ = c10::GetDefaultCPUAllocator();
  std::mutex mutex_;
  std::unordered_map<void*, std::size_t> used_;
  std::list<Free> oldest_first_;
  BySize by_size_;
  std::size_t in_use_ = 0, kept_ = 0, most_in_use_ = 0;
};

BlockAllocator& allocator() {
  static auto* const only = new BlockAllocator;  // tensors outlive every other static
  return *only;
}

void BlockAllocator::release(void* block) { allocator().give_back(block); }

}  // namespace

void use_block_allocator() { c10::SetCPUAllocator(&allocator(), /*priority=*/1); }

BlockMemory block_memory() { return allocator().memory(); }

}  // namespace tenon::host

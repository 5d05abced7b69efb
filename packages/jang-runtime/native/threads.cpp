#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif

namespace jang {

namespace {

// How long a helper looks for more work before it sleeps. Waking one takes about as long; looking
// longer takes the processor from the thread that prepares the next operations.
constexpr auto kLookingTime = std::chrono::microseconds(30);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int processors() {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

struct Work {
  const std::function<void(int64_t)>* task;
  int64_t count;
};

class Pool {
 public:
  explicit Pool(int helpers) {
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
  }

  ~Pool() {
    ending_ = true;
    turn_.fetch_add(2);
    turn_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  void run(const Work& work) {
    work_ = work;
    next_ = 0;
    // Odd while there is work to join.
    turn_.fetch_add(1);
    turn_.notify_all();
    take();
    turn_.fetch_add(1);
    // Helpers that joined have to finish what they took, and to let go of `work`.
    while (joined_.load() != 0) relax();
  }

 private:
  void take() {
    for (int64_t i = next_++; i < work_.count; i = next_++) (*work_.task)(i);
  }

  void help() {
    uint64_t seen = 0;
    while (true) {
      const uint64_t turn = wait_after(seen);
      if (ending_) return;
      joined_.fetch_add(1);
      // Joined before looking again: from here on the owner waits for this helper.
      if (turn_.load() == turn) take();
      joined_.fetch_sub(1);
      seen = turn;
    }
  }

  // The number of a turn with work that is not the one seen.
  uint64_t wait_after(uint64_t seen) {
    auto until = std::chrono::steady_clock::now() + kLookingTime;
    for (int looks = 1;; ++looks) {
      const uint64_t turn = turn_.load();
      if (ending_ || (turn % 2 == 1 && turn != seen)) return turn;
      relax();
      if (looks % 32 == 0 && std::chrono::steady_clock::now() > until) {
        turn_.wait(turn);
        until = std::chrono::steady_clock::now() + kLookingTime;
      }
    }
  }

  std::vector<std::thread> threads_;
  Work work_{};
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> turn_{0};
  std::atomic<int> joined_{0};
  std::atomic<bool> ending_{false};
};

struct Shared {
  std::mutex mutex;  // held by whoever runs work or changes the pool
  std::unique_ptr<Pool> pool;
  std::atomic<int> wanted{processors()};
  int64_t process = 0;
};

Shared& shared() {
  // Never destroyed: threads of MLX may run work while the process ends.
  static Shared* const instance = new Shared();
  return *instance;
}

int64_t process_number() {
#if defined(__linux__) || defined(__APPLE__)
  return getpid();
#else
  return 0;
#endif
}

}  // namespace

int thread_count() { return shared().wanted; }

void set_thread_count(int count) {
  Shared& state = shared();
  const std::lock_guard lock(state.mutex);
  state.wanted = std::max(1, count);
  state.pool.reset();
}

void parallel_for(int64_t count, const std::function<void(int64_t)>& task) {
  Shared& state = shared();
  std::unique_lock lock(state.mutex, std::try_to_lock);
  if (count <= 1 || state.wanted == 1 || !lock.owns_lock()) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  // Helpers do not survive a fork; what is left of them there cannot be joined.
  if (state.pool && state.process != process_number()) (void)state.pool.release();
  if (!state.pool) {
    state.pool = std::make_unique<Pool>(state.wanted - 1);
    state.process = process_number();
  }
  state.pool->run({&task, count});
}

}  // namespace jang

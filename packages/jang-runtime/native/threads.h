// Threads that share one piece of work at a time with the thread that asks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace jang {

// Runs task(0) to task(count - 1), each once, on this thread and the helpers; returns when all are
// done. A task must not throw. Helpers that come late find nothing left, so nobody waits for a
// sleeping one. Where another thread has the helpers at the moment, the caller works alone.
void parallel_for(int64_t count, const std::function<void(int64_t)>& task);

// How many threads take part, the caller included; as many as the process may run on at first.
int thread_count();
// Change it; at least 1.
void set_thread_count(int count);

}  // namespace jang

# tenon_sanitizers: link privately to every target of ours; empty unless TENON_SANITIZE names sanitizers,
# as in "address,undefined". LibTorch itself is not instrumented, so thread and memory make no sense with it.
include_guard(GLOBAL)

set(TENON_SANITIZE "" CACHE STRING "Sanitizers for our own code: address,undefined")

add_library(tenon_sanitizers INTERFACE)
if(TENON_SANITIZE)
  target_compile_options(tenon_sanitizers INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TENON_SANITIZE};-fno-sanitize-recover=all;-fno-omit-frame-pointer>)
  target_link_options(tenon_sanitizers INTERFACE -fsanitize=${TENON_SANITIZE})
endif()

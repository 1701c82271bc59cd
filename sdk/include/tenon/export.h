#pragma once
// Visibility of what crosses the border between the host library and native plugins.
#define TENON_API __attribute__((visibility("default")))

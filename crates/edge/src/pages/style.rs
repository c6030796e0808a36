//! How the edge's pages look.

/// One style for all, light and dark.
pub(super) const STYLE: &str = ":root{color-scheme:light dark}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;background:light-dark(#f6f5f2,#161616);color:light-dark(#1c1c1c,#e9e7e2)}\
main{width:min(26rem,calc(100vw - 2rem));padding:2rem;border-radius:12px;background:light-dark(#fff,#1f1f1f);box-shadow:0 1px 3px #0002,0 8px 24px #0001}\
h1{font-size:1.25rem;margin:0 0 .5rem}p{margin:.5rem 0}.small{font-size:.875rem;opacity:.7}.wrong{color:light-dark(#b3261e,#f2b8b5)}\
label{display:block;font-size:.875rem;margin:.75rem 0 .25rem}\
input{width:100%;padding:.6rem .7rem;font:inherit;border:1px solid #8886;border-radius:8px;background:transparent;color:inherit}\
button{margin-top:1rem;padding:.55rem 1rem;font:inherit;border:0;border-radius:8px;background:#c4492d;color:#fff;cursor:pointer}\
button.quiet{background:transparent;color:inherit;border:1px solid #8886}\
ul{list-style:none;margin:1rem 0;padding:0}li{padding:.4rem 0;border-top:1px solid #8883}a{color:light-dark(#a93c22,#f0927b)}\
code{font-size:.85em;background:#8882;padding:.1em .35em;border-radius:4px}\
.bar{height:3px;border-radius:2px;background:#8883;overflow:hidden;margin:0 0 1.25rem}\
.bar i{display:block;height:100%;width:35%;background:#c4492d;animation:go 1.4s ease-in-out infinite}\
@keyframes go{from{transform:translateX(-100%)}to{transform:translateX(300%)}}\
@media(prefers-reduced-motion:reduce){.bar i{animation:none;width:100%}}";

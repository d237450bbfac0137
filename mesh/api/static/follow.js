// Keeps the end of the conversation in view until its reader scrolls up.
//
// Turns change their height without the reader: an answer grows, facts come later, and what was never on the
// screen has an estimated height until it is. So the reader's will is kept, and not measured anew each time.

const NEAR = 80;

export class Follower {
  /** `box` scrolls, `content` is what grows in it. */
  constructor(box, content) {
    this.box = box;
    this.isFollowing = true;
    this.last = { top: 0, height: 0 };
    box.addEventListener("scroll", () => this.note(), { passive: true });
    // What is opened is to be read, not its end; a key opens it by a click too.
    content.addEventListener("click", ({ target }) => {
      if (target.closest("summary")) this.isFollowing = false;
    });
    content.addEventListener("toggle", () => { this.isFollowing = this.isAtEnd; }, { capture: true });
    new ResizeObserver(() => this.keepUp()).observe(content);
  }

  get isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.box;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }

  /** Where less is above than before, no reader scrolled: the content became lower. */
  note() {
    const { scrollTop: top, scrollHeight: height } = this.box;
    if (this.isAtEnd) this.isFollowing = true;
    else if (top < this.last.top && height >= this.last.height) this.isFollowing = false;
    this.last = { top, height };
  }

  goToEnd() {
    this.isFollowing = true;
    this.box.scrollTop = this.box.scrollHeight;
  }

  keepUp() {
    if (this.isFollowing) this.goToEnd();
  }
}
